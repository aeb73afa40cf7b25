"""Files that ship with edgeprune: the bundled model and the sounds of the demo."""
