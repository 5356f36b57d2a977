# The suffix index with a megabyte of memory: what is spilled is known as well as what is
# not, also after a restart and after a transaction that was undone.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('spill', qw(a b c));
$server->append_conf('postgresql.conf', "cozesync.index_memory = '1MB'\nlog_min_messages = debug1\n");
$server->restart;

my $n = 24000;
my $log_at = 0;

sub spilled
{
    my $log = slurp_file($server->logfile, $log_at);
    $log_at = -s $server->logfile;
    my $count = () = $log =~ /operations of the suffix index go to a file/g;
    return $count;
}

sub losses
{
    my ($db, $table) = @_;
    return sql($db, "SELECT count(*), min(conflict_type), max(conflict_type),
        md5(string_agg(format('%s %s', key, loser_origin), ',' ORDER BY key::text, loser_origin))
        FROM cozesync.conflict WHERE table_name = '$table'");
}

sub all_alike
{
    my ($table, $name) = @_;
    my %rows = map { sql($_, "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY k)) FROM $table t") => 1 }
        qw(a b c);
    is(scalar(keys %rows), 1, "$name: the same rows everywhere") or diag(join "\n", keys %rows);
    my %logs = map { losses($_, $table) => 1 } qw(a b c);
    is(scalar(keys %logs), 1, "$name: the same losers everywhere") or diag(join "\n", keys %logs);
    return (keys %logs)[0];
}

everywhere('t', 'CREATE TABLE t (k int PRIMARY KEY, v int)');
everywhere('u', 'CREATE TABLE u (k int PRIMARY KEY, v int UNIQUE)');
sql('a', "INSERT INTO t SELECT i, 0 FROM generate_series(1, $n) i");
sql('a', "INSERT INTO u SELECT i, i FROM generate_series(1, $n) i");
carry_all();
cmp_ok(spilled(), '>', 3, 'applying and seeing own entries spills');

# c is away: a and b know that it has not seen what they do
sub away
{
    my ($v) = @_;
    sql('a', "UPDATE t SET v = $v");
    carry('a', 'b');
    sql('b', "UPDATE t SET v = $v + 1 WHERE k % 3 = 0");
    carry('b', 'a');
    sql('c', "UPDATE t SET v = $v + 2 WHERE k % 10 = 0; DELETE FROM t WHERE k % 10 = 1");
    return;
}

away(10);
carry_all();
my $losers = $n / 5;
like(all_alike('t', 'spilled'), qr/^$losers\|/, 'a loser for each row that c wrote to');
cmp_ok(spilled(), '>', 3, 'it was spilled');
sql($_, 'TRUNCATE cozesync.conflict') for qw(a b c);

# the older one comes last; between, everything is read off the log again
sql('c', "UPDATE t SET v = 20 WHERE k % 7 = 0");
sql('a', "UPDATE t SET v = v + 100");
carry('a', 'b');
$server->restart;
carry('c', 'b');
carry_all();
all_alike('t', 'rebuilt');
is(sql('b', 'SELECT count(*) FROM t WHERE v = 20'), '0', 'what is older has no effect');
cmp_ok(spilled(), '>', 3, 'it was spilled while it was rebuilt');

# undone half-way: nothing of it may be remembered
sql('b', 'ALTER TABLE t ADD CHECK (v <> -20000)');
sql('a', 'UPDATE t SET v = -k');
my $upto = carry_no_wait('a', 'b');
ok(!wait_applied('b', 'a', $upto, 3), 'an entry fails near its end');
sql('c', 'UPDATE t SET v = 30 WHERE k = 17');
ok(carry('c', 'b'), 'another is decided without it');
is(sql('b', 'SELECT v FROM t WHERE k = 17'), '30', 'and has its effect');
is(sql('b', q{SELECT count(*) FROM cozesync.conflict WHERE key = '{"k": 17}' AND table_name = 't'}), '0',
    'without a conflict');
sql('b', 'ALTER TABLE t DROP CONSTRAINT t_v_check');
ok(wait_applied('b', 'a', $upto), 'it goes on');
carry_all();
all_alike('t', 'after an error');
is(sql('a', 'SELECT v FROM t WHERE k = 17'), '30', 'with the later one');

# unique values are found in files, too
sql($_, 'TRUNCATE cozesync.conflict') for qw(a b c);
sql('c', "UPDATE u SET v = -1 WHERE k = 5");
sql('a', "UPDATE u SET v = -1 WHERE k = 6");
sql('a', "UPDATE t SET v = v + 1");
carry('a', 'b');
carry('c', 'b');
carry_all();
like(all_alike('u', 'unique values'), qr/^1\|unique_violation\|/, 'a value that was spilled is found');
is(sql('b', 'SELECT k FROM u WHERE v = -1'), '5', 'who had it first keeps it');

# a TRUNCATE that had not seen what is in files
sql($_, 'TRUNCATE cozesync.conflict') for qw(a b c);
sql('c', 'TRUNCATE t');
sql('a', 'UPDATE t SET v = v + 1');
carry('a', 'b');
carry('c', 'b');
carry_all();
is(sql('b', 'SELECT count(*) FROM t'), sql('a', 'SELECT count(*) FROM t'), 'a TRUNCATE spares what is in files');
cmp_ok(sql('b', 'SELECT count(*) FROM t'), '>', $n / 2, 'really');

$server->stop('fast');
done_testing();
