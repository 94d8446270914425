"""RangeBN with batch statistics, and its divider."""
