/** Who a client is, over whichever protocol, and which tenants it may work with. */
import { ErrorCode } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import { WireError } from "../../pgwire/wire-errors.ts";

export interface Identity {
  /** For messages and the log. */
  readonly user: string;
  /**
   * `all`, with the pageserver as a whole: its users, its metrics, its other tenants. Or those that it may work with (and
   * create), and nothing of the pageserver as a whole.
   */
  readonly tenants: "all" | ReadonlySet<TenantId>;
  /** From then on it may do nothing any more, milliseconds since 1970; undefined if it does not expire. */
  readonly expiresAt?: number | undefined;
}

export function mayUseTenant(identity: Identity, tenant: TenantId): boolean {
  return identity.tenants === "all" || identity.tenants.has(tenant);
}

/** Throws `declined`, whether the tenant exists or not. */
export function checkTenant(identity: Identity, tenant: TenantId): void {
  if (mayUseTenant(identity, tenant)) return;
  throw forbidden(`user "${identity.user}" may not work with tenant ${tenant}`);
}

/** For what concerns the pageserver as a whole. Throws `declined`. */
export function checkEverything(identity: Identity): void {
  if (identity.tenants === "all") return;
  throw forbidden(`user "${identity.user}" may work with its own tenants only`);
}

function forbidden(message: string): WireError {
  return new WireError("42501", ErrorCode.Declined, message, {
    hint: "Whoever runs the pageserver can make a user or a token with more rights: neon pageserver user add, neon pageserver token",
  });
}
