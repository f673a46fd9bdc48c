/** What replication connections have in common: how many may send WAL, and which slots are in use. */
import { ErrorCode } from "../../../base/errors.ts";
import type { Clock } from "../../../base/seams.ts";
import { SqlState } from "../../../pgwire/errors.ts";
import type { Caller, Statement } from "../../../pgwire/statement.ts";
import { WireError } from "../../../pgwire/wire-errors.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import type { Identity } from "../identity.ts";
import { followedBranch } from "./replication-branch.ts";
import { ReplicationSession } from "./replication-session.ts";

/** As long as Postgres takes names. */
const NAME_LENGTH_MAX = 63;

/** Connections that send WAL at a time. Each may hold a window of records that it puts together again. */
export const SENDERS_MAX = 32;

export class ReplicationService {
  private readonly tenants: Tenants<ServedTimeline>;
  private readonly clock: Clock;
  private readonly activeSlots = new Set<string>();
  private sending = 0;

  constructor(tenants: Tenants<ServedTimeline>, { clock }: { clock: Clock }) {
    this.tenants = tenants;
    this.clock = clock;
  }

  /** Connections that send WAL now. */
  get senders(): number {
    return this.sending;
  }

  /** Throws for a branch that is not there, not named clearly, or not for this user. */
  open(
    caller: Caller,
    identity: Identity,
    others: (text: string) => Statement<Identity> | undefined,
  ): ReplicationSession {
    return new ReplicationSession(followedBranch(caller, identity, this.tenants), {
      clock: this.clock,
      client: { name: nameOf(caller), user: caller.user },
      activeSlots: this.activeSlots,
      beginSending: () => this.beginSending(),
      others,
    });
  }

  private beginSending(): Disposable {
    if (this.sending >= SENDERS_MAX) {
      throw new WireError(
        SqlState.TooManyConnections,
        ErrorCode.Unreachable,
        `${SENDERS_MAX} clients receive WAL from this pageserver already`,
        { hint: "Try again when others have ended." },
      );
    }
    this.sending++;
    return { [Symbol.dispose]: () => void this.sending-- };
  }
}

/** What the client calls itself, of which only what is printable in ASCII is kept, as Postgres does. */
function nameOf({ parameters }: Caller): string {
  const name = (parameters.get("application_name") ?? "").replaceAll(/[^ -~]/g, "?");
  return name.slice(0, NAME_LENGTH_MAX);
}
