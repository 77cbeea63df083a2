"""Put one model under load and take the times: what runs inside a benchmark's child process."""
