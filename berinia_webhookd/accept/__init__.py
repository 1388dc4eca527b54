"""The receiving stage: HTTP requests are bounded, verified, committed and answered."""
