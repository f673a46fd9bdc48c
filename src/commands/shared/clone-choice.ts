/** Which tenant and which branches `neon clone` gets. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { isId } from "../../base/ids.ts";
import type { RemoteBranch, RemoteTenant } from "../../client/remote-pageserver.ts";
import { refNameProblem } from "../../repository/ref-name.ts";
import { nearest } from "./suggest.ts";

/** The tenant that was asked for, or the only one. Throws `not_found`, or `usage` where it is not clear. */
export function chooseTenant(
  tenants: readonly RemoteTenant[],
  wanted: string | undefined,
  uri: string,
): RemoteTenant & { readonly pgVersion: number } {
  const ids = tenants.map((tenant) => tenant.tenantId).join(", ");
  let chosen: RemoteTenant | undefined;
  if (wanted === undefined) {
    const full = tenants.filter((tenant) => tenant.branches.length > 0);
    if (full.length > 1) {
      throw new NeonError(ErrorCode.Usage, `${uri} has several tenants: ${ids}`, {
        hint: "Say which with --tenant-id ID.",
      });
    }
    chosen = full[0] ?? tenants[0];
    if (!chosen) throw new NeonError(ErrorCode.NotFound, `${uri} has nothing to clone`);
  } else {
    if (!isId(wanted.toLowerCase())) {
      throw new NeonError(ErrorCode.Usage, `"${wanted}" is no tenant id: 32 hexadecimal digits are wanted`);
    }
    chosen = tenants.find((tenant) => tenant.tenantId === wanted.toLowerCase());
    if (!chosen) {
      throw new NeonError(ErrorCode.NotFound, `${uri} has no tenant ${wanted}`, {
        hint: ids === "" ? undefined : `There is ${ids}.`,
      });
    }
  }
  const { pgVersion } = chosen;
  if (pgVersion !== null) return { ...chosen, pgVersion };
  throw new NeonError(ErrorCode.Unreachable, `tenant ${chosen.tenantId} cannot be opened at ${uri}`, {
    hint: "`neon fsck` there says what is damaged.",
  });
}

/** Names of the branches to get, parents before children. Throws `not_found`. */
export function chooseBranches(
  tenant: RemoteTenant,
  wanted: readonly string[] | undefined,
  uri: string,
): string[] {
  const names = tenant.branches.map((branch) => branch.name);
  for (const name of wanted ?? []) {
    if (names.includes(name)) continue;
    const near = nearest(name, names);
    throw new NeonError(ErrorCode.NotFound, `${uri} has no branch "${name}"`, {
      hint: near === undefined ? `There is ${names.slice(0, 10).join(", ")}.` : `Did you mean "${near}"?`,
    });
  }
  // Names come from the other side: what would be refused here anyway is not asked for.
  const fit = tenant.branches.filter((branch) => branch.state !== "broken" && !refNameProblem(branch.name));
  const chosen = wanted === undefined ? fit : tenant.branches.filter(({ name }) => wanted.includes(name));
  if (chosen.length === 0) {
    throw new NeonError(ErrorCode.NotFound, `tenant ${tenant.tenantId} at ${uri} has no branch`, {
      hint: "Push one there first, or choose another tenant with --tenant-id.",
    });
  }
  const depths = depthsOf(tenant.branches);
  const rank = ({ name }: RemoteBranch): number => (name === "main" ? -1 : (depths.get(name) ?? 0));
  return [...chosen].sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1)).map(({ name }) => name);
}

/** How many named ancestors each branch has. What goes in a circle (it comes from the other side) has none. */
function depthsOf(branches: readonly RemoteBranch[]): Map<string, number> {
  const children = new Map<string, string[]>();
  let generation: string[] = [];
  const names = new Set(branches.map(({ name }) => name));
  for (const { name, ancestor } of branches) {
    const parent = ancestor?.name ?? undefined;
    if (parent === undefined || !names.has(parent)) generation.push(name);
    else children.set(parent, [...(children.get(parent) ?? []), name]);
  }
  const depths = new Map<string, number>();
  for (let depth = 0; generation.length > 0; depth++) {
    for (const name of generation) depths.set(name, depth);
    generation = generation.flatMap((name) => children.get(name) ?? []);
  }
  return depths;
}
