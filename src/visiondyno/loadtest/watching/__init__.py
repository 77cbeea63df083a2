"""What a target uses while it is under load: processor time, memory, how many instances are up."""
