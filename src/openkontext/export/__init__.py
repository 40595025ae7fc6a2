"""A checkpoint -> ONNX graphs in the layout, with the names and types, of the published exports."""
