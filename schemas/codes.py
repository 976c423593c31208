"""The words a site may use to refuse: a code leaves the site, never free text.

Stock Flower sends the text of an exception to the hub, and exceptions quote cells. Here each refusal is one of
these codes; both sides know the sentence that belongs to it.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why a site sent no summand."""

    MESSAGE_MALFORMED = "MESSAGE_MALFORMED"
    OTHER_VERSION = "OTHER_VERSION"
    PLAN_UNKNOWN = "PLAN_UNKNOWN"
    PLAN_NOT_OURS = "PLAN_NOT_OURS"
    PLAN_BELOW_FLOOR = "PLAN_BELOW_FLOOR"
    PLAN_NOT_APPROVED = "PLAN_NOT_APPROVED"
    APPROVAL_EXPIRED = "APPROVAL_EXPIRED"
    APPROVAL_WITHDRAWN = "APPROVAL_WITHDRAWN"
    SITE_PAUSED = "SITE_PAUSED"
    ROSTER_WRONG = "ROSTER_WRONG"
    ROSTER_KEY_CHANGED = "ROSTER_KEY_CHANGED"
    ROSTER_NOT_APPROVED = "ROSTER_NOT_APPROVED"
    APPROVALS_MISSING = "APPROVALS_MISSING"
    SECURE_SUM_REQUIRED = "SECURE_SUM_REQUIRED"
    SECURE_SUM_REFUSED = "SECURE_SUM_REFUSED"
    SUM_NOT_VERIFIED = "SUM_NOT_VERIFIED"
    GRID_NOT_VERIFIED = "GRID_NOT_VERIFIED"
    GRID_DIFFERS = "GRID_DIFFERS"
    INTERVAL_BELOW_FLOOR = "INTERVAL_BELOW_FLOOR"
    RUN_UNKNOWN = "RUN_UNKNOWN"
    RUN_CHANGED = "RUN_CHANGED"
    RUN_BEFORE_RESTORE = "RUN_BEFORE_RESTORE"
    HISTORY_LOST = "HISTORY_LOST"
    ROUND_ANSWERED_OTHERWISE = "ROUND_ANSWERED_OTHERWISE"
    ROUND_STALE = "ROUND_STALE"
    ROUNDS_EXHAUSTED = "ROUNDS_EXHAUSTED"
    REQUEST_NOT_IN_PLAN = "REQUEST_NOT_IN_PLAN"
    REQUEST_NOT_FINITE = "REQUEST_NOT_FINITE"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    REQUEST_TOO_FAR = "REQUEST_TOO_FAR"
    REQUEST_CONTRADICTS = "REQUEST_CONTRADICTS"
    RELEASE_NOT_IN_PLAN = "RELEASE_NOT_IN_PLAN"
    RELEASE_WRONG_SHAPE = "RELEASE_WRONG_SHAPE"
    RELEASE_WRONG_DTYPE = "RELEASE_WRONG_DTYPE"
    RELEASE_NOT_FINITE = "RELEASE_NOT_FINITE"
    RELEASE_TOO_LARGE = "RELEASE_TOO_LARGE"
    SUM_OVERFLOW = "SUM_OVERFLOW"
    TOO_FEW_PATIENTS = "TOO_FEW_PATIENTS"
    COHORT_TOO_CLOSE = "COHORT_TOO_CLOSE"
    SITES_TOO_CLOSE = "SITES_TOO_CLOSE"
    SITES_TOO_FEW = "SITES_TOO_FEW"
    BUDGET_NOT_SET = "BUDGET_NOT_SET"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    BUDGET_BROKEN = "BUDGET_BROKEN"
    HONEST_SITES_TOO_FEW = "HONEST_SITES_TOO_FEW"
    TABLES_REFUSED = "TABLES_REFUSED"
    TABLES_CHANGED = "TABLES_CHANGED"
    STEP_FAILED = "STEP_FAILED"
    STORAGE_FAILED = "STORAGE_FAILED"


SENTENCES: dict[Code, str] = {
    Code.MESSAGE_MALFORMED: "The message was not one of ours or was damaged on the way.",
    Code.OTHER_VERSION: "Hub and site run different versions of Archipel: install the same version on both.",
    Code.PLAN_UNKNOWN: "The site has not received this plan: launch the study again.",
    Code.PLAN_NOT_OURS: "The plan asks for something that the study does not compile to at this site: "
    "install the same version of Archipel on both sides.",
    Code.PLAN_BELOW_FLOOR: "The plan goes below the site's floors for patients or events: raise `[privacy]` "
    "in the study.",
    Code.PLAN_NOT_APPROVED: "The site has not approved this plan: there, run `archipel site plans`, read the "
    "data-use card, then `archipel site approve HASH`.",
    Code.APPROVAL_EXPIRED: "The site's approval of this plan has expired: it must approve it again.",
    Code.APPROVAL_WITHDRAWN: "The site has withdrawn its approval of this plan.",
    Code.SITE_PAUSED: "The site has paused all releases: its administrator ends that with `archipel site resume`.",
    Code.ROSTER_WRONG: "The list of sites and their keys (roster) that the hub sent does not fit this site or "
    "this run: this site by its own name and key, the run's sites and no others, three or more of them.",
    Code.ROSTER_KEY_CHANGED: "The hub sent another key for a site than the one whose fingerprint was compared: "
    "somebody may want to read along. If that site really has new keys, run `archipel site peers forget NAME` here "
    "and compare fingerprints anew.",
    Code.ROSTER_NOT_APPROVED: "The site has not approved this list of sites: there, run `archipel site approve "
    "HASH` and compare the fingerprints on the phone.",
    Code.APPROVALS_MISSING: "Not enough of the run's sites have approved this plan with this list of sites, or an "
    "approval is not signed by its site.",
    Code.SECURE_SUM_REQUIRED: "The approved plan asks for the secure sum, and the hub asked for this site's own "
    "numbers.",
    Code.SECURE_SUM_REFUSED: "The site broke the secure sum off, because what the hub passed on does not fit the "
    "protocol: its administrator finds the reason in the site's log.",
    Code.SUM_NOT_VERIFIED: "What the hub passed on of the masked counts does not open the sites' own sum, so the "
    "common time grid cannot be checked and the site goes no further: its administrator finds the reason in the "
    "site's log.",
    Code.GRID_NOT_VERIFIED: "The hub sent a time grid before the site could make it itself from the masked counts of "
    "all sites.",
    Code.GRID_DIFFERS: "The hub sent another time grid than the one that the site made itself from the masked counts "
    "of all sites.",
    Code.INTERVAL_BELOW_FLOOR: "An interval of the common time grid holds fewer events, over all sites, than the "
    "plan or the site's own floor asks for.",
    Code.RUN_UNKNOWN: "The site was not set up for this run.",
    Code.RUN_CHANGED: "The run's plan or list of sites differs from what the site was set up with.",
    Code.RUN_BEFORE_RESTORE: "The site was restored from a backup after this run had begun, so it cannot know what "
    "it has answered in it, and answers it no more: launch the study again.",
    Code.HISTORY_LOST: "The site was restored from a backup and does not know what it released after it, so a sum "
    "could differ from a forgotten one by few patients: its administrator decides with `archipel site accept-loss`.",
    Code.ROUND_ANSWERED_OTHERWISE: "The site has answered this round to a different question; it answers each "
    "round once.",
    Code.ROUND_STALE: "The round lies before one that the site has already answered.",
    Code.ROUNDS_EXHAUSTED: "The run has asked more rounds than its plan allows.",
    Code.REQUEST_NOT_IN_PLAN: "The hub asked for something that is not in the approved plan.",
    Code.REQUEST_NOT_FINITE: "The hub sent a value that is not a finite number.",
    Code.REQUEST_TOO_LARGE: "The hub sent a value beyond the plan's bounds.",
    Code.REQUEST_TOO_FAR: "The hub sent coefficients that are too large, or too far from the last ones, for a fit: "
    "such a question can single out patients. In an honest fit a penalty in the study keeps them small.",
    Code.REQUEST_CONTRADICTS: "The hub sent something that contradicts the plan, an earlier round, or what the site "
    "itself has added to the sum.",
    Code.RELEASE_NOT_IN_PLAN: "The site's gate held back an answer with other arrays than the plan lists.",
    Code.RELEASE_WRONG_SHAPE: "The site's gate held back an array of another shape than in the plan.",
    Code.RELEASE_WRONG_DTYPE: "The site's gate held back an array of another type than in the plan.",
    Code.RELEASE_NOT_FINITE: "The site's gate held back a value that is not a finite number.",
    Code.RELEASE_TOO_LARGE: "The site's gate held back a value beyond the plan's bounds.",
    Code.SUM_OVERFLOW: "The site held back a value that does not fit into the secure sum.",
    Code.TOO_FEW_PATIENTS: "The site has too few eligible patients for this study; it takes no part.",
    Code.COHORT_TOO_CLOSE: "The site's patients in this run differ by one to nine from those of an earlier run, so "
    "the difference of the two sums would be these patients: run it on the earlier tables, or once ten or more have "
    "changed.",
    Code.SITES_TOO_CLOSE: "The run's sites differ by one or two from those of an earlier run of the same question, "
    "so the difference of the two sums would be theirs: launch it with the same sites, or with three or more others.",
    Code.BUDGET_NOT_SET: "The study asks for differential privacy, and the site has not said how much of its "
    "patients' privacy it spends: there, write the section `[budget]` in site.toml and restart the site.",
    Code.BUDGET_EXCEEDED: "The site's privacy budget does not suffice for this study: ask for a smaller epsilon, or "
    "for more budget at the site; `archipel site status` shows there what is left.",
    Code.BUDGET_BROKEN: "The site's record of what its privacy budget has paid for is damaged or disagrees with its "
    "ledger, so nothing leaves under differential privacy: its administrator finds the reason in the site's log.",
    Code.HONEST_SITES_TOO_FEW: "The study counts on the noise of more honest sites (`honest_sites`) than this list "
    "of sites guarantees: a run that lost a site needs all of them back; otherwise ask for fewer in the study.",
    Code.SITES_TOO_FEW: "The plan asks for sums over all patients and over some of them, and with fewer than three "
    "sites the difference of two sums would be one or two sites' own: launch it with three sites or more, or write "
    "`folds = 0` in the study.",
    Code.TABLES_REFUSED: "The site's tables do not pass the check: there, run `archipel site check`.",
    Code.TABLES_CHANGED: "The site's tables changed during the run: launch a new run.",
    Code.STEP_FAILED: "The site could not compute this step: its administrator finds the reason in the site's log.",
    Code.STORAGE_FAILED: "The site could not write its ledger (disk full or not writable), so nothing left it.",
}
