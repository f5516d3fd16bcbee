"""Azure's buckets: so many requests at once, so many more each second, for each principal."""

from __future__ import annotations

from azureml_jobs.rehearsal.request_budget import Bucket, RequestBudget, throttled


def test_a_bucket_empties_and_fills_by_the_clock() -> None:
    now = 100.0
    budget = RequestBudget(reads=Bucket(2, 0.5), clock=lambda: now)
    assert [budget.spend("s", "a", reads=True) for _ in range(3)] == [0.0, 0.0, 2.0]
    now += 1.0
    assert budget.spend("s", "a", reads=True) == 1.0
    now += 1.0
    assert budget.spend("s", "a", reads=True) == 0.0


def test_each_subscription_principal_and_kind_has_a_bucket_of_its_own() -> None:
    budget = RequestBudget(Bucket(1, 1.0), Bucket(1, 1.0), clock=lambda: 0.0)
    asked = [("s", "a", True), ("t", "a", True), ("s", "b", True), ("s", "a", False)]
    assert [budget.spend(s, who, reads=reads) for s, who, reads in asked] == [0.0] * 4
    assert budget.spend("s", "a", reads=True) == 1.0
    budget.forget()
    assert budget.spend("s", "a", reads=True) == 0.0


def test_a_throttled_answer_says_when_to_come_again() -> None:
    answer = throttled("s", "GET", 1.2)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")
    assert b"SubscriptionRequestsThrottled" in answer.body
