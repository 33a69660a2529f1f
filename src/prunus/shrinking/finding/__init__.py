"""What can't matter: what every tensor holds whatever the inputs are, and which elements can change an output."""
