//! What every registry owes (`behaviour`), and what etcd's owes in the face of each known trap, with a real etcd. Where no `etcd`
//! is installed those tests say so and pass, unless INKSTONE_REQUIRE_ETCD=1.

mod away;
mod behaviour;
mod election;
mod fixture;
mod leases;
mod secured;
mod watches;
