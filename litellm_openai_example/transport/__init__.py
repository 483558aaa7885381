"""How one request travels: what is sent again, deadlines, certificates, the bodies of answers."""
