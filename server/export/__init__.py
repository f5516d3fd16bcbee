"""A finished model as files that need no Meadow: ONNX, torch.export, or weights with a loader."""
