"""What a learner is held against: Stable-Baselines3's agents, teachers, random and oracle policies."""
