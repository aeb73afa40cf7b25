"""edgeprune: personalise a trained network on the device."""

__version__ = "0.1.0"
