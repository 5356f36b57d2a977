# Column policies on two nodes: what two writes that had not seen each other make of each
# column, and that no rule that makes no sense is taken.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use ApplyTest;
use Test::More;

my $server = apply_server('columns', qw(a b));

my @columns = (
    [ n2 => 'smallint', 'delta' ], [ n4 => 'int', 'delta' ], [ n8 => 'bigint', 'delta' ],
    [ nn => 'numeric(6,2)', 'delta' ], [ nf => 'float8', 'delta' ],
    [ hi => 'text', 'max' ], [ lo => 'timestamp', 'min' ],
    [ js => 'jsonb', 'json_merge' ], [ st => 'text[]', 'set_merge' ],
    [ he => 'text', 'hold' ], [ la => 'text', 'last_update_wins' ]);
everywhere('t', 'CREATE TABLE t (id int PRIMARY KEY, ' . join(', ', map { "$_->[0] $_->[1]" } @columns) . ', g int GENERATED ALWAYS AS (id * 2) STORED)');
sql('a', q{SELECT cozesync.set_conflict_policy('t', 'merge')});
sql('a', "SELECT cozesync.set_column_policy('t', '$_->[0]', '$_->[2]')") for @columns;
ok(carry_all(), 'rules travel');
is(sql('b', q{SELECT string_agg(column_name || ' ' || policy, ', ' ORDER BY column_name) FROM cozesync.policies WHERE column_name IS NOT NULL}),
    join(', ', map { "$_->[0] $_->[2]" } sort { $a->[0] cmp $b->[0] } grep { $_->[2] ne 'last_update_wins' } @columns),
    'all but the default are listed');

my $id = 0;

# What becomes of a column that was $base, when one sets it to $first and the other to $second.
sub merged
{
    my ($column, $base, $first, $second) = @_;
    $id++;
    if (defined $base)
    {
        sql('a', "INSERT INTO t (id, $column) VALUES ($id, $base)");
        carry_all();
        sql('a', "UPDATE t SET $column = $first WHERE id = $id");
        sql('b', "UPDATE t SET $column = $second WHERE id = $id");
    }
    else
    {
        sql('a', "INSERT INTO t (id, $column) VALUES ($id, $first)");
        sql('b', "INSERT INTO t (id, $column) VALUES ($id, $second)");
    }
    carry('b', 'a');
    carry('a', 'b');
    my @got = map { sql($_, "SELECT coalesce($column\::text, 'NULL') || ' ' || (SELECT coalesce(string_agg(
        conflict_type || ' ' || outcome, ','), '') FROM cozesync.conflicts WHERE key = '{\"id\": $id}') FROM t WHERE id = $id") } qw(a b);
    s/kept local|took remote/decided/ for @got;
    return $got[0] eq $got[1] ? $got[0] : "a: $got[0] b: $got[1]";
}

for my $case (
    [ 'n4', 10, 13, 8, '11 ' ], [ 'n4', undef, 3, 4, '7 ' ], [ 'n4', 'NULL', 3, 4, '7 ' ],
    [ 'n4', 5, 5, 9, '9 ' ], [ 'n2', 30000, 32000, 32001, '32001 update_update decided' ],
    [ 'n8', '9223372036854775000', '9223372036854775800', '9223372036854774999', '9223372036854775799 ' ],
    [ 'n8', '9223372036854775800', '-9223372036854775800', '9223372036854775801', '-9223372036854775799 ' ],
    [ 'nn', '9999.00', '9999.50', '9999.75', '9999.75 update_update decided' ], [ 'nn', '1.10', '2.20', '1.15', '2.25 ' ],
    [ 'nf', '1', '1.5', '3', '3.5 ' ], [ 'nf', '1', q{'NaN'}, '3', 'NaN ' ],
    [ 'hi', q{'b'}, q{'d'}, q{'c'}, 'd update_update merged' ], [ 'hi', 'NULL', 'NULL', q{'c'}, 'c ' ],
    [ 'lo', q{'2020-01-05'}, q{'2020-01-04'}, q{'2020-01-03'}, '2020-01-03 00:00:00 update_update merged' ],
    [ 'he', q{'x'}, q{'y'}, q{'z'}, 'y update_update held' ], [ 'he', q{'x'}, q{'y'}, q{'y'}, 'y ' ],
    [ 'la', q{'x'}, q{'y'}, q{'z'}, 'z update_update merged' ],
    [ 'st', q{'{a,b,c}'}, q{'{a,b,d}'}, q{'{b,c,e}'}, '{b,d,e} ' ], [ 'st', undef, q{'{a,b}'}, q{'{c,b}'}, '{a,b,c} ' ],
    [ 'st', q{'{a}'}, 'NULL', q{'{a,b}'}, '{b} ' ], [ 'st', q{'{a,NULL}'}, q{'{NULL}'}, q{'{a,NULL,c}'}, '{NULL,c} ' ],
    [ 'st', q{'{a}'}, q{'{}'}, q{'{{a,b},{c,d}}'}, '{{a,b},{c,d}} update_update merged' ],
    [ 'js', q{'{"a": 1, "b": 2}'}, q{'{"a": 1, "b": 3, "c": 4}'}, q{'{"a": 2, "b": 2, "d": 5}'}, '{"a": 2, "b": 3, "c": 4, "d": 5} ' ],
    [ 'js', q{'{"a": 1}'}, q{'{"a": 2}'}, q{'{"a": 3}'}, '{"a": 3} update_update merged' ],
    [ 'js', q{'{"a": 1}'}, q{'{"a": 2}'}, q{'{}'}, '{"a": 2} update_update merged' ],
    [ 'js', q{'{"a": 1}'}, q{'{}'}, q{'{"a": 2}'}, '{"a": 2} update_update merged' ],
    [ 'js', q{'{"a": 1, "b": 1}'}, q{'{"a": 1}'}, q{'{"b": 1}'}, '{} ' ],
    [ 'js', q{'{"o": {"x": 1, "y": [1, 2]}}'}, q{'{"o": {"x": 2, "y": [1, 2]}}'}, q{'{"o": {"x": 1, "y": [1]}, "p": null}'},
        '{"o": {"x": 2, "y": [1]}, "p": null} ' ],
    [ 'js', q{'{"o": 1}'}, q{'{"o": {"x": 1}}'}, q{'{"o": {"y": 1}}'}, '{"o": {"x": 1, "y": 1}} ' ],
    [ 'js', undef, q{'{"o": {"x": 1}}'}, q{'{"o": {"y": 1}}'}, '{"o": {"x": 1, "y": 1}} ' ],
    [ 'js', q{'{"a": 1}'}, q{'[1]'}, q{'{"a": 2}'}, '{"a": 2} update_update merged' ],
    [ 'js', q{'{"a": 1}'}, q{'{"a": 1.0}'}, q{'{"a": 2}'}, '{"a": 2} ' ],
    [ 'js', 'NULL', q{'{"a": 1}'}, q{'{"b": 1}'}, '{"a": 1, "b": 1} ' ])
{
    my ($column, $base, $first, $second, $expected) = @$case;
    is(merged($column, $base, $first, $second), $expected,
        "$column: " . ($base // 'nothing') . " becomes $first and $second");
}

# A column that one side changed alone is that side's, whatever its policy.
sql('a', q{INSERT INTO t (id, he, la, n4) VALUES (1000, 'x', 'x', 1)});
carry_all();
sql('a', q{UPDATE t SET la = 'y', n4 = 2 WHERE id = 1000});
sql('b', q{UPDATE t SET he = 'y', n4 = 3 WHERE id = 1000});
carry_all();
is(join(' ', map { sql($_, q{SELECT concat_ws(' ', he, la, n4) FROM t WHERE id = 1000}) } qw(a b)), 'y y 4 y y 4',
    'columns that one side changed are taken from that side');
is(sql('b', q{SELECT count(*) FROM cozesync.conflicts WHERE key = '{"id": 1000}'}), 0, 'and nobody has lost anything');

# A held column is settled alone.
sql('a', q{INSERT INTO t (id, he, la) VALUES (1001, 'x', 'x')});
carry_all();
sql('a', q{UPDATE t SET he = 'kept', la = 'a' WHERE id = 1001});
sql('b', q{UPDATE t SET he = 'aside', n4 = 7 WHERE id = 1001});
carry_all();
is(sql('a', q{SELECT concat_ws(' ', outcome, columns, base_row ->> 'he', reason) FROM cozesync.conflicts WHERE key = '{"id": 1001}'}),
    'held {he} x both changed column he', 'the record says what it is about');
sql('b', q{SELECT cozesync.resolve_conflict(id, 'local') FROM cozesync.conflicts WHERE key = '{"id": 1001}'});
carry_all();
is(join(' ', map { sql($_, q{SELECT concat_ws(' ', he, la, n4) FROM t WHERE id = 1001}) } qw(a b)), 'aside a 7 aside a 7',
    'settling a column leaves the others');

# Trying a policy on what is logged.
sql('a', q{INSERT INTO t (id, la) VALUES (1002, 'x')});
carry_all();
sql('a', q{UPDATE t SET la = 'first' WHERE id = 1002});
sql('b', q{UPDATE t SET la = 'second' WHERE id = 1002});
carry_all();
my $try = sub { return sql('a', "SELECT concat_ws(' ', p.was ->> 'la', p.would_be ->> 'la', p.outcome) FROM cozesync.try_policy('t', $_[0]) p
    JOIN cozesync.conflicts c ON c.id = p.conflict_id WHERE c.key = '{\"id\": 1002}'") };
is($try->(q{'first_update_wins'}), 'second first set aside', 'try_policy: what would have stayed');
is($try->(q{'node_order', node_order => ARRAY['b', 'a']}), 'second second replaced', 'by the order of nodes');
is($try->(q{'hold'}), 'second first held', 'what would be held');
is(sql('a', q{SELECT la FROM t WHERE id = 1002}), 'second', 'and nothing is changed');
is(sql('a', q{SELECT policy FROM cozesync.tables WHERE relation = 't'::regclass}), 'merge', 'nor is the policy');

# Back to the default, and to merging again: rows stay the same everywhere.
sql('a', q{SELECT cozesync.set_conflict_policy('t', 'last_update_wins')});
is(sql('a', q{SELECT count(*) FROM cozesync.policies WHERE column_name IS NOT NULL}), 0, 'without merging no rules for columns');
sql('a', q{UPDATE t SET n4 = n4 + 1 WHERE id = 1000});
sql('b', q{UPDATE t SET n4 = n4 + 2 WHERE id = 1000});
carry('a', 'b');
sql('b', q{UPDATE t SET n4 = n4 + 4 WHERE id = 1000});
carry_all();
sql('b', q{SELECT cozesync.set_conflict_policy('t', 'merge')});
sql('b', q{SELECT cozesync.set_column_policy('t', 'n4', 'delta')});
sql('b', q{UPDATE t SET n4 = n4 + 10 WHERE id = 1000});
sql('a', q{UPDATE t SET n4 = n4 + 20 WHERE id = 1000});
carry_all();
isnt(same('t'), '', 'rows after two changes of policy');
unlike(same('t'), qr/\|/, 'are the same on both nodes');

# Retention: what is settled goes once nothing can be decided anew, what is held stays.
is(sql('a', 'SELECT cozesync.purge_conflicts(clock_timestamp())'), 0, 'above the cut nothing goes');
sql('a', 'UPDATE cozesync.local_node SET cut = cozesync.time_hlc(clock_timestamp())');
my $held = sql('a', q{SELECT count(*) FROM cozesync.conflicts WHERE outcome = 'held'});
my $others = sql('a', q{SELECT count(*) FROM cozesync.conflicts WHERE outcome <> 'held'});
is(sql('a', 'SELECT cozesync.purge_conflicts(clock_timestamp())'), $others, 'purge_conflicts tells how many it forgot');
is(sql('a', 'SELECT count(*) FROM cozesync.conflicts'), $held, 'held ones are not among them');

done_testing();
