"""`make chaos-serving`: an inference server under overload, deaths and clients that misbehave."""
