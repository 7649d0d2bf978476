"""What holds for the offers of every system; a part of contract_checks."""

from workbench import runner
from workbench.offers import Offers
from workbench.system import MOST_OFFERS, Act, Offer

WAIT_S = 120.0


def offers(s):
    """What is offered can be told apart and read, only what was offered is taken back, and every act is answered."""
    _offered([event for _, event in s.first.events])
    if any(isinstance(event, Offer) for _, event in s.first.events):
        heard, chosen = acted(s.system)
        _offered(heard)
        assert chosen, "what is offered is gone before anybody can choose it"
        for name in chosen:
            after = heard[heard.index(chosen[name]) + 1 :]
            assert any(isinstance(e, Offer) and e.name == name for e in after), f"nobody answered {chosen[name]}"


def _offered(events):
    now = Offers()
    known = set()
    for event in events:
        now.take(event)
        if not isinstance(event, Offer):
            continue
        assert event.name.strip(), event
        assert event.label.strip(), event
        assert event.open or event.name in known, f"{event} takes back what was not offered"
        known.add(event.name)
        seen = [(offer.group, offer.label) for offer in now.open.values()]
        assert len(set(seen)) == len(seen), f"two buttons read alike: {sorted(seen)}"
        assert len(seen) <= MOST_OFFERS, f"{len(seen)} offers at once are no choice"


def acted(system):
    """Run tiny, and choose the first offer of each group as soon as it is there: (events, name -> Act)."""
    run, chosen, groups = runner.Run(system, system.make("tiny"), record=False), {}, set()
    keep = run._hear

    def hear(event):
        keep(event)
        for offer in run.offers:
            if offer.group not in groups:
                groups.add(offer.group)
                run.act(offer.name)

    run._hear = hear
    run.start().wait(WAIT_S)
    assert run.state == "done", f"acted in, the run ended {run.state}: {run.error}"
    heard = [event for _, event in run.events]
    chosen = {event.name: event for event in heard if isinstance(event, Act)}
    return heard, chosen
