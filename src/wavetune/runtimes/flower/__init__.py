"""Deployed runs whose orders and reports are carried by Flower: one message each way a round."""
