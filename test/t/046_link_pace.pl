# Who has fallen behind has something to apply at once: a batch is taken as a whole over there, so the first is
# small.  (Were all of it one batch, nobody would apply anything while it is read, sent and checked.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;

my ($a, $b) = new_pair(schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my $writes = 2000;
my $there = 'SELECT count(*) FROM t';
my $sent = q{SELECT bytes FROM cozesync.links WHERE target = 'b'};

$_->safe_psql('postgres', 'SELECT cozesync.pause()') for $a, $b;
$a->safe_psql('postgres', "DO \$\$ BEGIN FOR i IN 1 .. $writes LOOP
    INSERT INTO t VALUES (i, repeat('x', 500)); COMMIT; END LOOP; END \$\$");
my $before = $a->safe_psql('postgres', $sent);
debug_stop($a, 'link-before-send', 'postgres', 1);
$_->safe_psql('postgres', 'SELECT cozesync.resume()') for $a, $b;
ok(wait_stopped($a, 'link-before-send'), 'a first batch');
debug_stop($a, 'source-before-fill');
debug_go($a, 'link-before-send');
ok(wait_stopped($a, 'source-before-fill'), 'and before a second is read');
ok(poll_until($b, "SELECT ($there) > 0"), 'what was in the first is applied');
cmp_ok($a->safe_psql('postgres', $sent) - $before, '<', 100 * 1024, 'which is a small part of all');
debug_go($a, 'source-before-fill');
ok(wait_quiet($a, $b), 'the rest follows');
is($b->safe_psql('postgres', $there), $writes, 'all of it');

done_testing();
