//! End-to-end tests on a real Kubernetes, with real JS peers and a real S3 server.
