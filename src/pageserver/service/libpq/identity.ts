/** Who a client of the page service is, and which tenants it may work with. */
import { ErrorCode } from "../../../base/errors.ts";
import type { TenantId } from "../../../base/ids.ts";
import { WireError } from "../../../pgwire/wire-errors.ts";

export interface Identity {
  readonly user: string;
  /** `all`, or those that it may work with (and create); nothing of the pageserver as a whole. */
  readonly tenants: "all" | ReadonlySet<TenantId>;
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
    hint: "Whoever runs the pageserver can make a user with more rights: neon pageserver user add",
  });
}
