"""Quantizers: a weight in, the tensors of the published exports out; one tensor at a time.

`fp8` and `nvfp4` hold the two number formats, `svdquant` makes one linear layer with a 16-bit branch, and
`layers` says which layers are quantized at all. Nothing here knows a graph or a whole model.
"""
