"""All that runs on the device: numpy, onnx and onnxruntime, nothing heavier."""
