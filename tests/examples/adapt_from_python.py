"""From Python: a trained run adapts to one task, and the policy acts in a Gymnasium environment.

python adapt_from_python.py
"""

import gymnasium

import metarl
import metarl.envs  # registers the environments with Gymnasium


def adapted_return(episodes: int = 20) -> float:
    """The return of an adapted policy on a goal that training never saw, acting without exploration noise.

    Args:
        episodes: of each adaptation step.
    """
    env = gymnasium.make("metarl/PointNavigation-v0", task={"goal": [0.3, 0.2]})
    run = metarl.load("promp-point-navigation")  # a run that comes with the project
    policy = run.adapt(env, episodes=episodes)

    total = 0.0
    obs, _ = env.reset(seed=0)
    ended = False
    while not ended:
        action, _ = policy.predict(obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        ended = terminated or truncated
    return total


if __name__ == "__main__":
    print(f"return after adaptation: {adapted_return():.2f}")
