"""Plan, train and deploy federated and split-federated fine-tuning of language models over wireless networks."""

__version__ = "0.1.0"
