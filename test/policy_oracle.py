#!/usr/bin/env python3
"""Compares what nodes show with what the model makes of their log.

Reads JSON from standard input, made by 085_policy_matrix.pl: of each table its policies, and
the entries, changes, rows and conflicts; writes a line for each difference, and at the
end how much was compared.  The fold is test/model.py's.
"""

import json
import sys

import model


def row_of(row):
    if row is None:
        return None
    row = {c: row[c] for c in model.COLUMNS}
    row['s'] = frozenset(row['s'])
    return row


def entries_of(given, table, policy):
    """The table's entries; an entry's V includes its own stream, as the model has it."""
    heads = {(hlc, origin): seen for origin, hlc, seen in given['entries']}
    changes = {}
    for origin, hlc, relation, operation, key, old, new in given['changes']:
        if relation == table:
            changes.setdefault((hlc, origin), []).append((operation, key, old, new))
    for (hlc, origin), list_of in changes.items():
        first, last, truncate = {}, {}, False
        for operation, key, old, new in list_of:
            if operation == 'truncate':
                truncate = True
                continue
            first.setdefault(key, (operation, old))
            if operation != 'superseded':
                last[key] = new
        ops = []
        for key, (operation, old) in first.items():
            op = model.Op(key, None, row_of(last[key]), policy)
            op.existed = operation != 'insert'
            if op.existed and (policy.folds() or op.new is None):
                op.old = row_of(old)
            ops.append(op)
        yield model.Entry(origin, hlc, dict(heads[hlc, origin], **{origin: hlc - 1}), ops=ops, truncate=truncate)


def main():
    given = json.load(sys.stdin)
    rows = conflicts = 0
    for table, (row, unique, order, by_type) in sorted(given['tables'].items()):
        policy = model.Policy((0, 0), row, unique, order, by_type)
        notes = {}
        states = model.fold({k: model.State() for k in given['keys']},
                            entries_of(given, table, policy), lambda op: op.policy, notes)
        right = {k: s.row for k, s in states.items() if s.row}
        held = {loss: outcome == 'held' for loss, outcome in notes.items()}
        for node in sorted(given['rows']):
            here = {k: row_of(r) for k, r in given['rows'][node][table]}
            for k in given['keys']:
                rows += 1
                if here.get(k) != right.get(k):
                    print('%s on %s: row %s is %s, not %s' % (table, node, k, here.get(k), right.get(k)))
            logged = {(k, (lh, lo), (dh, do)): outcome == 'held'
                      for k, lo, lh, do, dh, outcome in given['conflicts'][node][table]}
            conflicts += len(held)
            for loss in sorted(set(held) ^ set(logged)):
                print('%s on %s: %s conflict %s' % (table, node, 'lacks' if loss in held else 'has', loss))
            for loss in sorted(set(held) & set(logged)):
                if held[loss] != logged[loss]:
                    print('%s on %s: conflict %s is %sheld' % (table, node, loss, '' if logged[loss] else 'not '))
    print('compared %d rows and %d conflicts' % (rows, conflicts))


main()
