"""Networks and training recipes that the project ships."""
