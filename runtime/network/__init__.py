"""The network as a graph: shapes, dependency analysis, and its cutting down."""

__all__: list[str] = []
