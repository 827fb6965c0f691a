"""One model for many clients over HTTP: two known forms of requests, and one engine whose slots they share."""
