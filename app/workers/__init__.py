"""Where untrusted bytes are processed: warm processes with limits, each in a sandbox."""
