package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"pelton/engine"
)

// Three ways into a queue: one task that is waited for, one that is not, and
// many at once.
func ExampleTask_SendMany() {
	url, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := engine.Connect(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	one, err := Pack.Send(ctx, c, Order{"tea", 1}, engine.WithID("order-77"))
	fmt.Println(one.ID(), err)
	again, err := Pack.Send(ctx, c, Order{"tea", 1}, engine.WithID("order-77"))
	fmt.Println(again.ID(), errors.Is(err, engine.ErrExists))

	future, err := Pack.SendAsync(ctx, c, Order{"tea", 2})
	if err != nil {
		log.Fatal(err)
	}
	later, err := future.Result(ctx)
	fmt.Println(later.ID(), err)

	many, err := Pack.SendMany(ctx, c, []Order{{"tea", 3}, {"cups", 4}}, engine.WithAtomic())
	for _, r := range many {
		fmt.Println(r.ID(), err)
	}
	// Output:
	// order-77 <nil>
	// order-77 true
	// default-2 <nil>
	// default-3 <nil>
	// default-4 <nil>
}
