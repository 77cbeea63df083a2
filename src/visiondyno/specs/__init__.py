"""Typed inputs and outputs of operations: values that validate and never act."""
