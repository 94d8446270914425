"""Post-training quantization: a trained float network becomes integers without retraining."""
