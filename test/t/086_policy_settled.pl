# What there is a record of, and of which kind, follows the set of entries, also where somebody has
# settled it meanwhile.

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

done_testing();
