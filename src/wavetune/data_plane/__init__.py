"""The wire of a deployed split system: certificates, messages, streams and the two halves of the training engine."""
