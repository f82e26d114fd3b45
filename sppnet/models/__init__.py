"""Networks: a backbone, a pyramid, a head (paper §2 and §3.1.1)."""
