"""Task distributions as other libraries want them: Gymnasium's single and vector environments, Stable-Baselines3's."""
