"""One run: builds the world of a scenario, lets it live, brings it to rest, and checks it throughout.

A run has three parts. Customers submit their jobs, and everybody does what they do. When all jobs of
customers have ended, the run closes: faults end, the hostile leave, open jobs come to their ends. Last, one
probe job shows that the market works again, and every payment matures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import WorkerStanding
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.testing import make_offer
from tradepost_broker.simulation.figures.collector import COST_PER_UNIT_MICROCREDITS, Collector
from tradepost_broker.simulation.figures.figures import RunFigures, TeamFigures
from tradepost_broker.simulation.invariants.broken import require
from tradepost_broker.simulation.invariants.checker import Checker
from tradepost_broker.simulation.scenarios import (
    SUBMITTER_MODELS,
    WORKER_MODELS,
    Account,
    Scenario,
    Team,
)
from tradepost_broker.simulation.submitters.model import SubmitterModel
from tradepost_broker.simulation.workers.honest import Honest
from tradepost_broker.simulation.workers.model import Gang, WorkerModel
from tradepost_broker.simulation.world.broker import Observer, SimulatedBroker
from tradepost_broker.simulation.world.client import Client
from tradepost_broker.simulation.world.device import Device
from tradepost_broker.simulation.world.network import Network
from tradepost_broker.simulation.world.schedule import Schedule, seeded
from tradepost_broker.simulation.world.world import (
    COMMON,
    PROVIDERS,
    TRUSTED_PUBLISHER,
    Input,
    Truth,
    World,
)

_BEGIN: Final = 1_000_000_000.0
_CREDITS_MICROCREDITS: Final = 10**12
_HONEST_PRICE: Final = 10
#: Prices of honest workers spread over so many steps above it.
_PRICE_STEPS: Final = 7
_JOIN_S: Final = 2.0
_DEADLINE_S: Final = 300.0
_SETTLE_S: Final = 60.0
_PROBE: Final = Truth(Input.ORDINARY, 1.0, "probe")
_PROBE_CAP_MICROCREDITS: Final = 100_000
_PROBE_CONFIDENCE: Final = 0.75
#: So many honest, active workers must be able to do the probe.
_PROBE_WORKERS_MIN: Final = 3


class _Prober(SubmitterModel):
    """Remembers the job that it was given."""

    job = ""

    def submitted(self, client: Client, job: str) -> None:
        self.job = job


class Simulation:
    """One run of a scenario. `run` may be called once.

    `checked` turns the invariants off where only figures are wanted. `crash_points` are numbers of write
    points at which the broker crashes. `observers` are told of everything. `timer` measures the core's
    share of real time.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        checked: bool = True,
        crash_points: frozenset[int] = frozenset(),
        observers: Sequence[Observer] = (),
        timer: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.schedule = Schedule(_BEGIN)
        self.network = Network(self.schedule, scenario.faults, seed=seed)
        self.world = World(self.schedule, self.network, seed, scenario.outcomes_are_visible)
        self.collector = Collector(self.world)
        self.checker = Checker(scenario.policy) if checked else None
        checkers = (self.checker,) if self.checker else ()
        self.broker = SimulatedBroker(
            policy=scenario.policy,
            network=self.network,
            release=self.world.release,
            observers=(self.collector, *checkers, *observers),
            seed=seed,
            crash_points=crash_points,
            timer=timer,
        )
        self.world.broker = self.broker
        self.world.recruit = self._recruit
        self._rng = seeded(seed, "population")
        self._teams: dict[str, TeamFigures] = {}
        self._gangs: dict[str, Gang] = {}
        self._models: dict[str, WorkerModel] = {}
        self._customers: list[tuple[Client, SubmitterModel]] = []
        self._clients: list[Client] = []

    def run(self) -> RunFigures:
        """Run it to its end. Raises `SimulationFailure` if an invariant is broken."""
        self._populate()
        self._run_while(lambda: not self._customers_are_served())
        self.world.closing = True
        self.network.heal()
        for device in self.world.devices.values():
            if self._team_of(device).hostile:
                device.leave()
        self._run_while(
            lambda: self.collector.open_jobs > 0 or any(client.unanswered for client in self._clients)
        )
        self._probe()
        policy = self.scenario.policy
        rest_s = policy.hold_s + policy.reconnect_s + policy.late_receipt_s + _SETTLE_S
        over_at = self.schedule.at + rest_s
        self._run_while(lambda: self.schedule.at < over_at)
        if self.checker is not None:
            self.checker.closed(self.broker.market, self.schedule.at)
        return self._figures()

    # Who takes part

    def _populate(self) -> None:
        scenario = self.scenario
        self.world.publish(COMMON, TRUSTED_PUBLISHER, account=TRUSTED_PUBLISHER)
        for number in range(scenario.auditors):
            auditor = Team(model="honest", workers=1, hand="auditors", capacity=scenario.auditor_capacity)
            self._add_device(f"auditor{number}", f"auditor{number}", auditor, auditor=True)
        for team in scenario.teams:
            for number in range(team.workers):
                owner = f"{team.model}-{number % team.owners if team.owners else number}"
                self._add_device(f"{team.model}{number:03}", owner, team)
        customers = Account(
            model="customer",
            rate_per_s=scenario.rate_per_s,
            confidences=scenario.confidences,
            deadline_s=scenario.deadline_s,
            jobs_max=scenario.jobs,
        )
        for number, account in enumerate((customers, *scenario.accounts)):
            self._add_account(f"{account.model}{number}", account)

    def _add_device(self, worker: str, owner: str, team: Team, *, auditor: bool = False) -> Device:
        kind: type[WorkerModel] = Honest if auditor else WORKER_MODELS[team.model]
        hand = team.hand or team.model
        gang = self._gangs.setdefault(hand, Gang(hand))
        model = kind(gang)
        figures = self._figures_of("auditor" if auditor else team.model, kind.hostile)
        figures.workers += 1
        honest_price = _HONEST_PRICE + self._rng.randrange(_PRICE_STEPS)
        device = Device(
            self.world,
            worker,
            owner=owner,
            behaviour=model,
            offer=make_offer(
                team.price_microcredits or max(1, round(honest_price * kind.price_factor)),
                capacity=team.capacity,
                providers=(PROVIDERS[len(self.world.devices) % len(PROVIDERS)],),
            ),
            auditor=auditor,
        )
        self.world.devices[worker] = device
        self.collector.team_of[worker] = figures
        self._models[worker] = model
        self.schedule.after(self._rng.random() * _JOIN_S, self._join, device, model)
        return device

    def _join(self, device: Device, model: WorkerModel) -> None:
        device.join(0 if device.auditor else self.scenario.stake_microcredits)
        model.start(device)

    def _recruit(self, device: Device) -> None:
        """Let another identity join in the place of one that left."""
        if self.world.closing:
            return
        name = self._models[device.id].name
        number = len(self.world.devices)
        self._add_device(f"{name}{number:03}", f"{name}-{number}", Team(model=name, workers=1))

    def _add_account(self, name: str, account: Account) -> None:
        kind = SUBMITTER_MODELS[account.model]
        hand = account.hand or account.model
        gang = self._gangs.setdefault(hand, Gang(hand))
        model = kind(
            gang,
            rate_per_s=account.rate_per_s,
            confidences=account.confidences,
            run_s=account.run_s,
            cap_microcredits=account.cap_microcredits,
            deadline_s=account.deadline_s,
            jobs_max=account.jobs_max,
        )
        client = Client(self.world, name, hand=hand, model=model)
        self._clients.append(client)
        self.collector.accounts[name] = self._figures_of(self._model_of_hand(hand) or kind.name, kind.hostile)
        if not kind.hostile and account.jobs_max:
            self._customers.append((client, model))
        client.fund(_CREDITS_MICROCREDITS)
        self.schedule.after(_JOIN_S * 2, model.start, client)

    def _model_of_hand(self, hand: str) -> str:
        """The model of the workers under a hand, whose figures its accounts share."""
        return next((team.model for team in self.scenario.teams if (team.hand or team.model) == hand), "")

    def _figures_of(self, model: str, hostile: bool) -> TeamFigures:
        return self._teams.setdefault(model, TeamFigures(model=model, hostile=hostile))

    def _team_of(self, device: Device) -> TeamFigures:
        return self.collector.team_of[device.id]

    # How it goes

    def _run_while(self, going: Callable[[], bool]) -> None:
        while going() and self.schedule.step():
            pass

    def _customers_are_served(self) -> bool:
        if self.collector.open_customers_jobs:
            return False
        return all(model.is_done and not client.unanswered for client, model in self._customers)

    def _probe(self) -> None:
        """Show that a job of an honest submitter is done, now that all faults are over."""
        back_at = self.schedule.at + self.scenario.policy.reconnect_s + _SETTLE_S
        self._run_while(lambda: self.schedule.at < back_at)
        market = self.broker.market
        able = [
            device.id
            for device in self.world.devices.values()
            if isinstance(device.behaviour, Honest)
            and not device.auditor
            and market.is_connected(device.id)
            and (record := market.worker(device.id)) is not None
            and record.standing is WorkerStanding.ACTIVE
        ]
        if len(able) < _PROBE_WORKERS_MIN:
            return
        model = _Prober(Gang("probe"))
        client = Client(self.world, "probe", hand="probe", model=model)
        self.collector.accounts["probe"] = TeamFigures(model="probe", hostile=True)
        client.fund(_CREDITS_MICROCREDITS)
        client.submit(_PROBE, cap_microcredits=_PROBE_CAP_MICROCREDITS, confidence=_PROBE_CONFIDENCE)
        end_at = self.schedule.at + _DEADLINE_S + _SETTLE_S
        self._run_while(lambda: self.schedule.at < end_at and not self._probe_has_ended(model))
        job = self.broker.market.job(model.job)
        require(
            job is not None and job.status is JobStatus.ACCEPTED,
            f"with {len(able)} honest workers and no faults, the probe job is {job and job.status}, "
            f"{job and job.problem}",
        )

    def _probe_has_ended(self, model: _Prober) -> bool:
        job = self.broker.market.job(model.job)
        return job is not None and job.status in FINAL

    def _figures(self) -> RunFigures:
        self.collector.finish()
        for device in self.world.devices.values():
            self._team_of(device).work_microcredits += device.units_worked * COST_PER_UNIT_MICROCREDITS
        teams = list(self._teams.values())
        honest = [team for team in teams if not team.hostile]
        collector = self.collector
        return RunFigures(
            scenario=self.scenario.name,
            seed=self.seed,
            digest=self.broker.digest,
            virtual_s=round(self.schedule.at - _BEGIN, 3),
            events=self.broker.events,
            crashes=self.broker.crashes,
            spot_check_rate=collector.checked / collector.accepted if collector.accepted else 0.0,
            confidences=sorted(collector.confidences.values(), key=lambda one: one.confidence),
            teams=teams,
            honest_suspended=sum(team.suspended for team in honest),
            honest_slashed=sum(team.expelled for team in honest),
        )
