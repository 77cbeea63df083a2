"""What runs on a RunPod worker: every operation, under the RunPod SDK's loop."""
