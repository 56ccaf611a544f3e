"""Classic control, one file a system: a cart-pole, a pendulum, a mountain car, an acrobot."""
