"""What is minimised: objectives, and priors on vectors."""
