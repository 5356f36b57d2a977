# What there is a record of, and of which kind, follows the set of entries, also where somebody has
# settled it meanwhile; and for how long records stay.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('settled', qw(a b c));

# What every node must have alike of the conflicts of a table.
sub logs_differ
{
    my ($table, $expected) = @_;
    my @logs = map { sql($_, "SELECT string_agg(concat_ws(' ', m.node_name, d.node_name, conflict_type, policy,
            CASE WHEN outcome IN ('kept local', 'took remote') THEN 'decided' ELSE outcome END, resolved_at, resolved_by, CASE WHEN outcome = 'resolved' THEN result_row END), ', ' ORDER BY loser_hlc, decided_hlc)
        FROM cozesync.conflict c JOIN cozesync.member m ON m.origin = loser_origin JOIN cozesync.member d ON d.origin = decided_origin
        WHERE table_name = '$table'") } qw(a b c);
    return join ' | ', @logs if grep { $_ ne $logs[0] } @logs;
    my $kinds = sql('a', "SELECT string_agg(concat_ws(' ', m.node_name, d.node_name, conflict_type, outcome), ', ' ORDER BY loser_hlc, decided_hlc)
        FROM cozesync.conflict c JOIN cozesync.member m ON m.origin = loser_origin JOIN cozesync.member d ON d.origin = decided_origin
        WHERE table_name = '$table'");
    return $kinds eq $expected ? '' : $kinds;
}

# A deletion arrives that is earlier than both: what was held over a row was held over its absence.
everywhere('h', 'CREATE TABLE h (k int PRIMARY KEY, v text)');
sql('a', q{SELECT cozesync.set_conflict_policy('h', 'hold')});
sql('a', q{INSERT INTO h VALUES (1, 'o')});
carry_all();
sql('c', q{DELETE FROM h WHERE k = 1});
sql('a', q{UPDATE h SET v = 'p' WHERE k = 1});
sql('b', q{UPDATE h SET v = 'q' WHERE k = 1});
carry('b', 'a');
is(sql('a', q{SELECT conflict_type || ' ' || outcome FROM cozesync.conflict WHERE table_name = 'h'}), 'update_update held', 'a conflict is held');
sql('a', q{SELECT cozesync.resolve_conflict(id, 'local') FROM cozesync.conflict WHERE table_name = 'h'});
carry('b', 'c');
ok(carry_all(), 'and settled, before one who wrote earlier was heard of');
is(same('h'), '', 'the deletion came first');
is(logs_differ('h', 'a a update_deleted held, b b update_deleted resolved, a a update_deleted held'), '',
    'a settled record is of the same kind on every node');

# The one that lost never met its winner.
everywhere('r', 'CREATE TABLE r (k int PRIMARY KEY, v text, rank int NOT NULL)');
sql('a', q{SELECT cozesync.set_conflict_policy('r', 'highest_version', version_column => 'rank')});
sql('a', q{INSERT INTO r VALUES (1, 'o', 0)});
carry_all();
sql('c', q{UPDATE r SET v = 'c', rank = 5 WHERE k = 1});
sql('a', q{UPDATE r SET v = 'a', rank = 3 WHERE k = 1});
sql('b', q{UPDATE r SET v = 'b', rank = 4 WHERE k = 1});
carry('b', 'a');
is(sql('a', q{SELECT m.node_name || ' ' || d.node_name FROM cozesync.conflict c JOIN cozesync.member m ON m.origin = loser_origin
    JOIN cozesync.member d ON d.origin = decided_origin WHERE table_name = 'r'}), 'a b', 'one loses to another');
sql('a', q{SELECT cozesync.resolve_conflict(id, 'row', '{"v": "s", "rank": 6}') FROM cozesync.conflict WHERE table_name = 'r'});
carry('b', 'c');
ok(carry_all(), 'which somebody settles');
is(same('r'), '(1,s,6)', 'what he wrote stays');
my $said = logs_differ('r', '');
unlike($said, qr/ \| /, 'a settled record of a conflict that has never been is on no node');
unlike($said, qr/a b update_update/, 'nor where it was settled');

# Two settle it, neither knowing of the other.
everywhere('s', 'CREATE TABLE s (k int PRIMARY KEY, v text)');
sql('a', q{SELECT cozesync.set_conflict_policy('s', 'hold')});
sql('a', q{INSERT INTO s VALUES (1, 'o')});
carry_all();
sql('a', q{UPDATE s SET v = 'x' WHERE k = 1});
sql('b', q{UPDATE s SET v = 'y' WHERE k = 1});
carry_all();
sql($_, "SELECT cozesync.resolve_conflict(id, 'row', '{\"v\": \"by $_\"}') FROM cozesync.conflict WHERE table_name = 's'") for qw(a b);
carry('b', 'c');
ok(carry_all(), 'two settle a conflict');
is(same('s'), '(1,"by a")', 'under hold the earlier stays');
unlike(logs_differ('s', ''), qr/ \| /, 'and the record shows the same settlement on every node');

# --- retention ---

my $applier = q{SELECT pid FROM pg_stat_activity WHERE datname = 'a' AND backend_type = 'cozesync applier'};

# When it starts an applier sees to it; later every ten minutes.
sub retain
{
    my ($setting) = @_;
    sql('a', "ALTER SYSTEM SET $setting");
    sql('a', q{ALTER SYSTEM SET cozesync.beat_interval = '50ms'});
    sql('a', 'SELECT pg_reload_conf()');
    my $pid = sql('a', $applier);
    sql('a', "SELECT pg_terminate_backend($pid)");
    return poll_until($server, "SELECT EXISTS ($applier AND pid <> $pid)", 't', 'a');
}

# Those that were made by hand: an applier that starts writes what holds above the cut anew.
sub records { return sql('a', q{SELECT coalesce(string_agg(key ->> 'k', ' ' ORDER BY id), '') FROM cozesync.conflict WHERE decided_hlc < 10000}) }

# Records by hand: k, outcome, how old, for how long settled.
sub make_records
{
    sql('a', 'DELETE FROM cozesync.conflict');
    for (@_)
    {
        my ($k, $outcome, $age, $settled) = @$_;
        $settled = $settled ? "clock_timestamp() - interval '$settled', 'me'" : 'NULL, NULL';
        sql('a', "INSERT INTO cozesync.conflict (detected_at, schema_name, table_name, key, conflict_type, policy, outcome,
                loser_origin, loser_hlc, decided_origin, decided_hlc, resolved_at, resolved_by)
            VALUES (clock_timestamp() - interval '$age', 'public', 's', '{\"k\": $k}', 'update_update', 'hold', '$outcome', 1, $k, 1, $k, $settled)");
    }
    return;
}

make_records([ 1, 'kept local', '40 days' ], [ 2, 'held', '40 days' ], [ 3, 'resolved', '40 days', '40 days' ],
    [ 4, 'resolved', '40 days', '1 day' ], [ 5, 'took remote', '20 days' ]);
is(sql('a', q{SELECT cozesync.purge_conflicts(now() - interval '50 days')}), 0, 'nothing is as old as that');
retain(q{cozesync.conflict_retention = '30d'});
ok(poll_until($server, q{SELECT count(*) = 3 FROM cozesync.conflict WHERE decided_hlc < 10000}, 't', 'a'), 'what is old goes by itself');
is(records(), '2 4 5', 'but not what is held, nor what was settled lately');
is(sql('a', q{SELECT cozesync.purge_conflicts(now() - interval '10 days')}), 1, 'purge_conflicts goes by the settling, too');
is(records(), '2 4', 'and leaves what is held');

# Too many: the oldest go first, held ones never.
make_records([ 1, 'held', '20 days' ], [ 2, 'kept local', '19 days' ]);
sql('a', q{INSERT INTO cozesync.conflict (schema_name, table_name, key, conflict_type, policy, outcome, loser_origin, loser_hlc,
        decided_origin, decided_hlc, local_row)
    SELECT 'public', 's', jsonb_build_object('k', i), 'update_update', 'hold', 'kept local', 1, i, 1, i,
           jsonb_build_object('v', (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 30) WHERE i > 0))
      FROM generate_series(10, 3009) i});
retain(q{cozesync.max_conflicts_size = '1MB'});
ok(poll_until($server, q{SELECT count(*) < 1500 FROM cozesync.conflict WHERE decided_hlc < 10000}, 't', 'a'), 'where they are too many they go by themselves');
is(sql('a', q{SELECT min((key ->> 'k')::int) FROM cozesync.conflict WHERE outcome = 'held' AND decided_hlc < 10000}), 1, 'a held one stays');
is(sql('a', q{SELECT count(*) FROM cozesync.conflict WHERE (key ->> 'k')::int = 2 AND decided_hlc < 10000}), 0, 'the oldest is gone');
is(sql('a', q{SELECT max((key ->> 'k')::int) FROM cozesync.conflict}), 3009, 'the newest is there');
is(sql('a', q{SELECT count(*) = max((key ->> 'k')::int) - min((key ->> 'k')::int) + 1 FROM cozesync.conflict WHERE outcome <> 'held' AND decided_hlc < 10000}), 't',
    'none went before an older one');
my $size = sql('a', q{SELECT sum(pg_column_size(c)) FROM cozesync.conflict c WHERE decided_hlc < 10000});
cmp_ok($size, '>', 900_000, 'no more go than must');
cmp_ok($size, '<', 1_050_000, 'and no fewer');

done_testing();
