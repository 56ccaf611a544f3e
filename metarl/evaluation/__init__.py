"""The model evaluator: how fast and how well does a learner adapt to tasks it never saw?"""
