"""The Debian package on a real systemd: small machines of Debian 12, with nothing but it."""
