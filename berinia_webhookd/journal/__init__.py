"""The journal: deliveries are on disk before they are answered; each event is stored once."""
