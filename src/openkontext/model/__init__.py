"""The FLUX.1 Kontext architecture in torch, its presets and its checkpoint formats."""
