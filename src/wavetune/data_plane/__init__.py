"""The wire between devices and the main server of a split system: certificates, messages, streams, and the two halves."""
