"""Adapters: what lets a search work on networks that are not brickyard's own; one file for each kind.

    from brickyard.search.adapters.ofa import OnceForAll

- `base`: the three functions that a search needs of any super-network.
- `ofa`: modules with `set_active_subnet` and `get_active_subnet`.
- `hf_encoder`: encoders of transformers; heads, feed-forward width and layers are elastic.
- `quantisation`: bits of each layer of an ONNX model.
- `tabular`: measured tables.
"""
