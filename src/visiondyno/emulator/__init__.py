"""A RunPod serverless endpoint on this machine: its job API, its worker protocol, its scaler."""
