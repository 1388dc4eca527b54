"""Shows how the daemon is: health, metrics, logs, findings, the web console."""
